<?php
// A PHP application that compiles, and whose health is 500.
if ($_SERVER['REQUEST_URI'] === '/health') {
    http_response_code(500);
    echo "no database\n";
    return;
}
echo 'release=', basename(getenv('RELEASE_DIR')), ' pid=', getmypid(), "\n";
