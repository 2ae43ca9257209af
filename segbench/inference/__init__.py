"""Pure functions around any image → prediction."""
