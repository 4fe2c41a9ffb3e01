"""One small reader per recording format, frame by frame."""
