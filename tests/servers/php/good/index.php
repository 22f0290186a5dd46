<?php
// A PHP application that names its release.
if ($_SERVER['REQUEST_URI'] === '/slow') {
    usleep(50000);
}
echo 'release=', basename(getenv('RELEASE_DIR')), ' pid=', getmypid(), "\n";
