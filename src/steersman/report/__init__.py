"""The report: reads a run directory and writes report.json and one self-contained HTML file."""
