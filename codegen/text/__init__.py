"""tokenizer.json compiled into tables that libmossnet reads: the section TEXT."""
