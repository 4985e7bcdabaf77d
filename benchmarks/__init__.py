"""Speed comparisons of trimtab with a reference that does the work of the published code; see README.md."""
