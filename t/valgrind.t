# The main paths under valgrind's memcheck: no error has a frame in the module.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Returns valgrind's errors that have a frame in the module.
sub errors {
    my ($t) = @_;
    my @errors;
    for my $path (glob $t->root . '/html/valgrind.*') {
        my @lines = map { s/^==\d+== ?//r } split /\n/, read_file($path);
        push @errors, grep { /ngx_http_memstat_module/ && /\S/ } split /^\s*$/m, join "\n", @lines;
    }
    return @errors;
}

run_tests();

__DATA__

=== TEST 1: requests, pools, zones, reloads
--- main_config
worker_processes 2;
worker_shutdown_timeout 5s;
--- http_config
limit_req_zone $remote_addr zone=limited:1m rate=100000r/s;
upstream kept {
    server 127.0.0.1:$TEST_NGINX_SERVER_PORT;
    keepalive 4;
}
--- config
location /memstat { memstat; memstat_uri on; }
location /empty { limit_req zone=limited; return 200 "empty\n"; }
location /kept { proxy_pass http://kept/empty; }
--- under
valgrind -q --smc-check=all --log-file=$TEST_NGINX_SERVER_ROOT/html/valgrind.%p
--- perl
my $look = sub {
    for (1 .. 4) {
        $t->get($_) for qw(/empty /kept /memstat?format=text /memstat?refresh=heap /memstat?bad=1);
        my $reply = $t->memstat;
        is scalar(active_workers($reply)), 2, 'both workers';
    }
};
$look->();
my @clients = map { $t->connect->send(GET => '/empty') } 1 .. 300;
$_->receive for @clients;
$t->memstat;
$_->close for @clients;
$t->reload;
$look->();
$t->reload(main_config => 'worker_processes 2; memstat_hooks off;');
$look->();
$t->reload(main_config => 'worker_processes 2;');
$look->();
is join("\n", errors($t)), '', 'no error of ours';

=== TEST 2: Lua
--- main_config
worker_processes 1;
worker_shutdown_timeout 5s;
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
location /work {
    content_by_lua_block {
        local list = {}
        for i = 1, 2000 do list[i] = "value " .. i end
        ngx.shared.dict:set("last", table.concat(list))
        ngx.timer.at(0, function () collectgarbage() end)
        ngx.say(#list)
    }
}
--- under
valgrind -q --smc-check=all --log-file=$TEST_NGINX_SERVER_ROOT/html/valgrind.%p
--- perl
for (1 .. 3) {
    $t->get('/work') for 1 .. 5;
    ok $_->{lua}, 'Lua is reported' for active_workers($t->memstat);
    $t->get('/memstat?format=text');
    $t->reload if $_ < 3;
}
is join("\n", errors($t)), '', 'no error of ours';

=== TEST 3: a request that arrives before the first snapshot is done
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
--- under
valgrind -q --smc-check=all --log-file=$TEST_NGINX_SERVER_ROOT/html/valgrind.%p
--- perl
# The answer must not wait for a timeout, or the client dies.
my ($worker) = process_with($t->memstat, kind => 'worker');
ok $worker->{breakdown}, 'it is answered when it is';
is_deeply [ grep { /being read|under way/ } @{ $worker->{notes} } ], [], 'with all figures';
is join("\n", errors($t)), '', 'no error of ours';
