"""report.html: a run (`page`), or several (`comparison`), as one page that needs no network."""
