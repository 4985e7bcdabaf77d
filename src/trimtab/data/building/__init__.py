"""Building contrast pairs: planned, answered by a model or an endpoint, sifted, written whole."""
