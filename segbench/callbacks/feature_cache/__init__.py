"""Feature maps of a frozen encoder, computed once and kept on disk."""
