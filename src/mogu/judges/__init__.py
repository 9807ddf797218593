"""What a reply is: one judge a file, each reading text only."""
