"""Images with planted truth, made from seeds: heads, chest films, skin scans."""
