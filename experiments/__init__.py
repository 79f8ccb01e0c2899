"""The command line: `run` trains, `evaluate` measures, `compare` overlays, `bench` times against peers."""
