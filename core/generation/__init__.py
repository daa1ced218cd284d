"""A request run through its phases with the blocks of diffusers' modular pipelines."""
