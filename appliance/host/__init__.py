"""One module for each kernel facility or tool: parsers apart from verbs, and no policy."""
