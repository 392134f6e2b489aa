"""Many pairs: a table of scans, registered on a Dask cluster, with one page of results."""
