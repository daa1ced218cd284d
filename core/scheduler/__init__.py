"""The order of phases across jobs, and the loop that runs them."""
