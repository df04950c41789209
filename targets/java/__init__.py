"""libmossnet for Java: its classes, and the package of both that Android apps take."""
