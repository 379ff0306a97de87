"""What is learned and how it is judged, one file per task."""
