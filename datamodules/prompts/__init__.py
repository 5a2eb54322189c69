"""What students, teachers and checkers are asked, versioned."""
