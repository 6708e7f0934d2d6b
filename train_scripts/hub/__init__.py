"""Names, model cards and folders of the Hugging Face Hub, and what a run says about itself."""
