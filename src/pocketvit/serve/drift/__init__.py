"""Watching a served model over time: statistics of photos and answers, detectors of change, alerts, corrections."""
