"""`summary.json` files in, one HTML file out. Knows blocks (tables, curves, ...), and no protocol."""
