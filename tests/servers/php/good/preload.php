<?php
// Compiled while php-fpm boots: a release that does not even parse ends it then, and not its first request.
opcache_compile_file(__DIR__ . '/index.php');
