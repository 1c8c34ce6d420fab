"""What the command line can be asked to do, one noun a module: parse, call one function, print."""
