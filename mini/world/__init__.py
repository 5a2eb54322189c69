"""The synthetic world: sounds, scenes, questions, and a teacher and a checker that live in it."""
