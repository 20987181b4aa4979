"""What two files of one model differ by, and nothing else."""
