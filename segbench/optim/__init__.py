"""Parameter groups and learning-rate schedules, counted in optimiser steps."""
