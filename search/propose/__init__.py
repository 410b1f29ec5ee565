"""What proposes trials: samplers and their model, first configurations, warm start."""
