"""The benchmark harness: experiments, runs that survive a kill, reports and the command line."""
