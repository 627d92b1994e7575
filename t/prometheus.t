# A real Prometheus scrapes the server.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Prometheus qw(promtool series);

# Returns a name for a series.
sub key { return Test::Memstat::Prometheus::key(@_) }

# Returns the series that a reply should give, without those that every scrape changes.
sub expected {
    my ($reply) = @_;
    my %series;
    my $add = sub {
        my ($name, $value, @labels) = @_;
        $series{ key("nginx_memstat_$name", @labels) } = $value if defined $value;
    };
    for my $process (@{ $reply->{processes} }) {
        my @process = (kind => $process->{kind}, worker => $process->{id} // '');
        my $system  = $process->{system};
        $add->("process_${_}_bytes", $system->{$_}, @process) 
            for grep { $_ ne 'shared_ms_ago' } keys %$system;
        $add->('process_generation', $process->{generation}, @process);
        for my $category (keys %{ $process->{breakdown} // {} }) {
            $add->("category_${_}_bytes", $process->{breakdown}{$category}{$_}, @process, category => $category)
                for qw(reserved resident);
        }
        $add->('process_threads', $process->{stacks}{threads}, @process) if $process->{stacks};
        for my $lua (@{ $process->{lua} // [] }) {
            my @lua = (@process, subsystem => $lua->{subsystem});
            $add->('lua_vms', $lua->{vms}, @lua);
            $add->("lua_${_}_bytes", $lua->{$_}, @lua) for qw(reserved resident);
            $add->('lua_gc_bytes', $lua->{gc_bytes}, @lua);
            $add->('lua_allocated_bytes', $lua->{allocated_bytes}, @lua);
            $add->('lua_failures_total', $lua->{failures}, @lua);
        }
    }
    for my $name (keys %{ $reply->{shared_zones} }) {
        my ($zone, @zone) = ($reply->{shared_zones}{$name}, zone => $name);
        $add->('zone_info', 1, @zone, owner => $zone->{owner}) if defined $zone->{owner};
        $add->("zone_${_}_bytes", $zone->{$_}, @zone) for qw(size resident in_use largest_allocation);
        $add->('zone_failures_total', $zone->{failures}, @zone);
        if (my $pages = $zone->{pages}) {
            $add->('zone_pages', $pages->{$_}, @zone, state => $_) for qw(used free);
            $add->('zone_page_requests_total', $pages->{reqs}, @zone);
            $add->('zone_page_failures_total', $pages->{fails}, @zone);
        }
        for my $slot (keys %{ $zone->{slots} // {} }) {
            my $figures = $zone->{slots}{$slot};
            $add->('zone_slots', $figures->{$_}, @zone, slot => $slot, state => $_) for qw(used free);
            $add->('zone_slot_requests_total', $figures->{reqs}, @zone, slot => $slot);
            $add->('zone_slot_failures_total', $figures->{fails}, @zone, slot => $slot);
        }
    }
    my $totals = $reply->{totals};
    $add->("server_${_}_bytes", $totals->{$_}) 
        for qw(resident resident_unique resident_unique_error swap shared_memory);
    return \%series;
}

# Returns a line for each difference between the expected and the actual series.
sub differences {
    my ($expected, $got) = @_;
    return map { sprintf "%s: expected %s, got %s", $_, $expected->{$_}, $got->{$_} // 'nothing' }
        grep { !defined $got->{$_} || $got->{$_} != $expected->{$_} } sort keys %$expected;
}

run_tests();

__DATA__

=== TEST 1: Prometheus answers with the numbers of JSON
--- main_config
worker_processes 2;
--- http_config
limit_req_zone $binary_remote_addr "zone=\"odd\" <zone>:1m" rate=1r/s;
proxy_cache_path html/cache keys_zone=two:1m;
lua_shared_dict dict 1m;
log_format scrape '$http_accept | $sent_http_content_type';
--- config
location /memstat { memstat; access_log logs/scrape.log scrape; }
location /json { memstat; }
location /set { content_by_lua_block { for i = 1, 500 do ngx.shared.dict:set("k" .. i, "value") end ngx.say("ok") } }
--- perl
is $t->get('/set')->{status}, 200, 'something in a zone';
settled($t);
my $prometheus = Test::Memstat::Prometheus->new('127.0.0.1:' . $t->port, '/memstat');
my ($expected, @differences);
# Repeats until Prometheus has scraped and nothing has changed meanwhile.
my $scrapes = sub { return (read_file($t->root . '/logs/scrape.log') // '') =~ tr/\n// };
eval { $t->wait_for('the same numbers', sub {
    my $before = expected($t->memstat('/json'));
    my $seen = $scrapes->();
    $t->wait_for('a scrape', sub { $scrapes->() > $seen });
    my $got    = $prometheus->query('{__name__=~"nginx_memstat_.+"}');
    $expected    = expected($t->memstat('/json'));
    @differences = differences($expected, $got);
    return !@differences && !differences($before, $expected);
}) };
is join("\n", @differences), '', 'all of ' . scalar(keys %$expected) . ' series';
cmp_ok scalar(keys %$expected), '>', 150, 'which are many';
my $up = $prometheus->query('up');
is_deeply [ values %$up ], [1], 'the scrape succeeds';
my $zone = $prometheus->query('nginx_memstat_zone_size_bytes{zone="\"odd\" <zone>"}');
is_deeply [ values %$zone ], [1048576], 'a zone of an odd name';
my ($line) = reverse split /\n/, Test::Memstat::read_file($t->root . '/logs/scrape.log');
my ($accept, $type) = split / \| /, $line;
like $accept, qr{^application/openmetrics-text}, "its Accept: $accept";
like $type, qr{^application/openmetrics-text; version=1\.0\.0}, 'gets OpenMetrics';
$prometheus->stop;

=== TEST 2: workers that are shutting down have a separate series
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /held { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $silent = silent_server($t->port(1));
my @old = $t->workers;
my ($clients, $held) = held($t, $silent, '/held', 20);
$t->reload;
my ($reply, $scrape, $old);
for (1 .. 50) {
    $reply  = $t->fresh;
    $scrape = $t->get('/memstat?format=prometheus')->{body};
    $old    = sum(map { $_->{system}{resident} } process_with($reply, state => 'shutting_down'));
    last if $scrape =~ /^nginx_memstat_process_resident_bytes\{kind="worker",worker="old"\} $old$/m;
}
my $series = series($scrape);
is $series->{ key('nginx_memstat_process_resident_bytes', kind => 'worker', worker => 'old') }, $old,
    'the sum of the old ones';
my $count = grep { my $pid = $_; grep { $_->{pid} == $pid && $_->{state} eq 'shutting_down' } @{ $reply->{processes} } } @old;
cmp_ok $count, '>=', 1, 'there are some';
is $series->{ key('nginx_memstat_processes', kind => 'worker', state => 'shutting_down') }, $count, 'so many';
is $series->{ key('nginx_memstat_processes', kind => 'worker', state => 'active') }, 2, 'and the new ones';
ok exists $series->{ key('nginx_memstat_pools_created_total', kind => 'worker', worker => $_) }, "worker $_ counts" for 0, 1;
ok !exists $series->{ key('nginx_memstat_pools_created_total', kind => 'worker', worker => 'old') }, 'the old ones do not';
my ($content, $said) = promtool($scrape, qw(check metrics));
ok $content && $said eq '', "promtool check metrics $said";
$_->close for @$held, @$clients;

=== TEST 3: a worker that does not answer
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 100ms; }
--- perl
$t->memstat;
my ($first, $second) = $t->workers;
$t->signal(STOP => $second);
my $series;
# Until then, its last snapshot is young enough to be used.
$t->wait_for('it is known to be silent', sub {
    $series = series($t->get('/memstat?format=prometheus')->{body});
    return $series->{ key('nginx_memstat_processes', kind => 'worker', state => 'unresponsive') };
});
is $series->{ key('nginx_memstat_processes', kind => 'worker', state => 'unresponsive') }, 1, 'is counted';
is $series->{ key('nginx_memstat_processes', kind => 'worker', state => 'active') }, 1, 'as the other';
my @workers = grep { /^nginx_memstat_process_resident_bytes\{kind="worker"/ } keys %$series;
is scalar @workers, 2, 'it keeps its series';
$t->signal(CONT => $second);
