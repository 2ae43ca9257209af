"""Tables and plots of the MeanShifter thesis beside the published figures."""
