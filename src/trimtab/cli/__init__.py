"""The command line: one module a command, each of which parses, calls the library and prints.

Nothing else in the library prints. `trimtab.cli.main` turns errors into exit codes once for all commands; torch and
transformers are imported inside the commands, so that `trimtab --help` answers at once.
"""
