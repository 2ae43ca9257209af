"""Images and masks, from files to arrays and back."""
