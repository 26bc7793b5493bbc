"""Frames of videos: where a video is read, which of its frames are taken, and how they are stored.

A video that cannot be used is a `stages.status.Failure`. The decoder is PyAV, the extra `video` of the
package, which is imported only where a video is opened.
"""
