"""The reference study: real techniques on real data, measured through the ordinary SDK and agent."""
