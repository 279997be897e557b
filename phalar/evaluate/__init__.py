"""Judge a trained model on frozen trials and report it beside chance and baselines."""
