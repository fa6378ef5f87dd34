"""The experiment's report: tables, figures, curves and findings, as a page and as files."""
