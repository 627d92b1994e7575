# Reloads under load, with Lua and zones. Compared with the same server without the module, no more requests
# fail, nothing more is logged, and memory is as flat. TEST_NGINX_COUNT: the number of reloads (15).
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Returns how many requests the server has answered.
sub served { my ($t) = @_; return $t->access_log =~ tr/\n// }

# Reloads a server, with or without the module, under load. Returns the results.
sub run_through {
    my ($module, $count) = @_;
    my $t = Test::Memstat::Server->new(
        module      => $module,
        log_level   => 'notice',
        main_config => 'worker_processes 2;',
        http_config => <<'END',
limit_req_zone $binary_remote_addr zone=limited:1m rate=1000000r/s;
lua_shared_dict dict 1m;
init_worker_by_lua_block { ngx.timer.every(0.05, function () ngx.shared.dict:incr("timer", 1, 0) end) }
END
        config => ($module ? 'location /memstat { memstat; }' : '') . <<'END',
location /lua {
    limit_req zone=limited burst=100000 nodelay;
    content_by_lua_block {
        local list = {}
        for i = 1, 100 do list[i] = "value " .. i end
        ngx.shared.dict:set("last", table.concat(list))
        ngx.say(#list)
    }
}
location /empty { return 200 "empty\n"; }
END
    )->start;
    my %run = (server => $t);
    # One reload before the first reading: after it, the master has all memory that it needs once.
    $t->reload;
    my %before = proc_status($t->master);
    my $seconds = 3600;
    my @wrk;
    for my $case ([ closed => '/lua', '-H', 'Connection: close' ], [ kept => '/empty' ]) {
        my ($name, $path, @options) = @$case;
        my $pid = fork // die "cannot fork: $!\n";
        if (!$pid) {
            open STDOUT, '>', $t->root . "/logs/wrk.$name";
            exec 'wrk', '-t1', '-c8', "-d${seconds}s", @options, $t->base . $path;
            POSIX::_exit(127);
        }
        push @wrk, [ $name, $pid ];
    }
    for (1 .. $count) {
        # Each generation answers requests.
        my $served = served($t);
        $t->wait_for('requests', sub { served($t) >= $served + 100 });
        if ($module) { $t->memstat for 1 .. 2 }
        $t->reload;
    }
    for (@wrk) {
        my ($name, $pid) = @$_;
        kill INT => $pid;
        waitpid $pid, 0;
        my $said = read_file($t->root . "/logs/wrk.$name");
        ($run{$name}{requests}) = $said =~ /(\d+) requests in/;
        $run{$name}{bad} = $said =~ /Non-2xx or 3xx responses: (\d+)/ ? $1 : 0;
        $run{$name}{socket} = $said =~ /Socket errors: (.*)/ ? $1 : '';
        $run{$name}{errors} = sum(0, $run{$name}{socket} =~ /(\d+)/g);
    }
    $t->old_gone;
    my %after = proc_status($t->master);
    $run{master} = $after{RssAnon} - $before{RssAnon};
    $run{workers} = sum(map { my %s = proc_status($_); $s{RssAnon} } $t->workers) / 2;
    $run{wrong} = [ $t->stop ];
    my @lines = grep { /\[(?:warn|error|crit|alert|emerg)\]/ } split /\n/, $t->error_log;
    $run{logged} = { map { s/^\S+ \S+ (\[\w+\]) \S+ (?:\*\d+ )?//r => 1 } @lines };
    return \%run;
}

run_tests();

__DATA__

=== TEST 1: with the module and without
--- config
# Lua
location /lua_is_needed { content_by_lua_block { ngx.say("") } }
--- perl
my $count = $ENV{TEST_NGINX_COUNT} // 15;
my $without = run_through(0, $count);
my $with = run_through(1, $count);
for my $run ($without, $with) {
    my $name = $run == $with ? 'with' : 'without';
    cmp_ok $run->{closed}{requests}, '>', 10 * $count, "$name: $run->{closed}{requests} requests on new connections";
    cmp_ok $run->{kept}{requests}, '>', 10 * $count, "$name: $run->{kept}{requests} on kept ones";
    is_deeply $run->{wrong}, [], "$name: it ends as told";
    is $run->{closed}{bad} + $run->{kept}{bad}, 0, "$name: no bad status";
    is $run->{closed}{errors}, 0, "$name: no new connection fails ($run->{closed}{socket})";
}
# nginx closes kept connections at a reload, some of them just when a request arrives.
cmp_ok $with->{kept}{errors}, '<=', 2 * $without->{kept}{errors} + 2 * $count,
    "kept connections: $with->{kept}{errors} errors with, $without->{kept}{errors} without";
my @more = grep { !$without->{logged}{$_} } sort keys %{ $with->{logged} };
is join("\n", @more), '', 'nothing more is logged';
cmp_ok $with->{master}, '<', $without->{master} + 600 * 1024,
    "the master grew $with->{master} bytes with, $without->{master} without";
cmp_ok $with->{workers}, '<', 1.1 * $without->{workers} + 1.5 * 1048576,
    "a worker has $with->{workers} bytes with, $without->{workers} without";
diag "master +$with->{master} / +$without->{master}, worker $with->{workers} / $without->{workers}, ",
    "requests $with->{closed}{requests} / $without->{closed}{requests}" if $ENV{TEST_NGINX_VERBOSE};
