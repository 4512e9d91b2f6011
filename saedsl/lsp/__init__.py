"""What editors ask of a program: mistakes, completions, meanings, declarations. `server` speaks the protocol."""
