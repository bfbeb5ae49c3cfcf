"""The command line of Synaxis: the whole system on embedded servers, and the admin API."""
