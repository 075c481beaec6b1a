"""Human raters: the application in which they answer, the store that keeps what they said, and what it is worth."""
