"""Published evaluation suites, one a file. The data come from the user's copy; the metrics are each paper's own."""
