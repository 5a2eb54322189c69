"""What the stages hand to each other: records, and the files that keep them."""
