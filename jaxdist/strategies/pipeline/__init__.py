"""A model in stages, through which microbatches flow."""
