"""What is wrong with a dataset, said before training: files to records, records to findings."""
