"""Studies on the built-in model: what the pages of docs/ claim about steering, measured again by one command each."""
