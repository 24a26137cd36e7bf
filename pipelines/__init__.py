"""What a task does with its inputs: one file a task, over the base that streams and batches."""
