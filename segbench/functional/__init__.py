"""Pure tensor functions shared by several rooms."""
