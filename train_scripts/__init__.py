"""The commands of FLaLLM: one module for each, with a `main()`, and the parts they share."""
