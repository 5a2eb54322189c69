"""From a folder of videos to a verified training corpus."""
