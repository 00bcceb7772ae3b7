"""What an agent tells of itself: events in order, statistics, traffic, and all of it as one document."""
