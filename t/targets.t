# Every section has its figures, from the actual structures, whatever options the tested nginx was built
# with.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

my $built = Test::Memstat::Configuration::nginx_version();
sub has { return $built =~ /--with-$_[0]\b/ && $built !~ /--without-$_[0]\b/ }
my %has = (
    threads => scalar has('threads'),
    http2   => scalar has('http_v2_module'),
    stream  => scalar has('stream'),
    zones   => $built !~ /--without-http_limit_req_module/,
);
my $threads = 5;

my $t = Test::Memstat::Server->new(
    lua         => 0,
    main_config => join('',
        "worker_processes 2;\n",
        ($has{threads} ? "thread_pool default threads=$threads;\n" : ''),
        ($has{stream} ? <<'END' : '')),
stream {
    server { listen 127.0.0.1:$TEST_NGINX_PORT_1; proxy_pass 127.0.0.1:$TEST_NGINX_SERVER_PORT; }
}
END
    http_config => join('',
        'limit_req_zone $binary_remote_addr zone=limited:1m rate=1000r/s;', "\n",
        ($has{http2} ? <<'END' : '')),
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_2 http2;
    root html2;
}
END
    config => join('', <<'END', ($has{threads} ? 'location = /threads { aio threads; }' : '')),
location = /memstat { memstat; memstat_uri on; }
location = /file { limit_req zone=limited burst=100 nodelay; }
END
    user_files => ">>> file\nhello\n>>> threads\n" . 'x' x 100_000 . "\n",
)->start;

# Returns the worker that answers, after a first answer, and its reply.
sub answered {
    my $reply = settled($t);
    return (process_of($reply, $reply->{answered_by}{pid}), $reply);
}
my %at = (http => $t->port, stream => $t->port(1), http2 => $t->port(2));

subtest 'processes and what the kernel counts' => sub {
    my ($worker, $reply) = answered();
    my ($version) = $built =~ m{nginx/(\S+)};
    is $reply->{nginx}, $version, "nginx $version";
    is scalar(active_workers($reply)), 2, 'both workers';
    for my $process (process_with($reply, kind => 'worker')) {
        is_deeply [ map { $process->{hooks}{$_} } qw(pool slab thread) ], [ ('on') x 3 ], 'the hooks are in place';
        my %breakdown = %{ $process->{breakdown} };
        adds_up($process, 'a worker');
        ok defined $breakdown{$_}{resident}, "$_ is known" for qw(glibc_heap nginx_shm text data stacks);
    }
};

subtest 'pools and structures' => sub {
    for (1 .. 30) { is $t->get('/file')->{status}, 200, 'a file' }
    my ($worker) = answered();
    my %creators = map { $_->{creator} => $_ } @{ $worker->{pools}{by_creator} };
    # An nginx that is not stripped has the name of the static function.
    my ($request) = grep { /^ngx_http_(?:create|alloc)_request$/ } keys %creators;
    for my $creator ('ngx_init_cycle', $request // 'none', 'ngx_event_accept') {
        cmp_ok $creators{$creator}{live}, '>=', 1, "$creator has live pools";
        cmp_ok $creators{$creator}{bytes}, '>', 0, 'with blocks';
    }
    is $creators{ $request // 'none' }{live}, 1, 'the asking request is the only one';
    my ($asking) = grep { $_->{kind} eq 'request' } @{ $worker->{pools}{oldest} };
    is $asking->{request}, 'GET /memstat HTTP/1.1', 'its line is where the structure has it';
    is $asking->{server_name}, 'localhost', 'and so is its server';
    is $_->{generation}, 1, 'the generation of its configuration' for @{ $worker->{pools}{cycles} };
};

subtest 'zones' => sub {
    my ($worker, $reply) = answered();
    my $zone = $reply->{shared_zones}{limited};
    is $zone->{size}, 1 << 20, 'its size';
    is $zone->{owner}, 'ngx_http_limit_req_module', 'its owner';
    cmp_ok $zone->{$_}, '>', 0, "$_ is known" for qw(resident largest_allocation in_use);
    my $allocations = sum(map { $_->{zones}{limited}{allocations} } process_with($reply, kind => 'worker'));
    cmp_ok $allocations, '>=', 1, "the workers' allocations";
};

subtest 'threads' => sub {
    plan(skip_all => 'this nginx has no thread pools') unless $has{threads};
    is length $t->get('/threads')->{body}, 100_001, 'a file read by a thread';
    my ($worker) = answered();
    is $worker->{stacks}{threads}, threads($worker->{pid}), 'each thread is seen';
    cmp_ok $worker->{stacks}{threads}, '==', 1 + $threads, 'the main one and those of the pool';
    cmp_ok $worker->{stacks}{resident}, '>', 0, 'and its stack';
};

subtest 'HTTP/2' => sub {
    plan(skip_all => 'this nginx has no HTTP/2') unless $has{http2};
    my ($before) = created();
    my $code = `curl -s -o /dev/null -w '%{http_version} %{http_code}' --http2-prior-knowledge http://127.0.0.1:$at{http2}/`;
    is $code, '2 404', 'a stream';
    my ($after) = created();
    is $after->{http2_stream} - ($before->{http2_stream} // 0), 1, 'has a pool for its header';
};

subtest 'stream' => sub {
    plan(skip_all => 'this nginx has no stream') unless $has{stream};
    my $live = sub {
        sum(map { $_->{live} } grep { $_->{kind} eq 'connection' } map { @{ $_->{pools}{by_creator} } }
            process_with($t->fresh, kind => 'worker'));
    };
    my $before = $live->();
    my $session = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $at{stream}) or die "connect: $!\n";
    $t->wait_for('a session, and its connection to this server', sub { $live->() == $before + 2 });
    pass 'its pools are there';
    $session->close;
};

subtest 'formats' => sub {
    for my $format (qw(json html text prometheus)) {
        my $answer = $t->get("/memstat?format=$format");
        is $answer->{status}, 200, $format;
        cmp_ok length $answer->{body}, '>', 500, 'has something to say';
    }
};

subtest 'a reload' => sub {
    $t->reload;
    my ($worker) = answered();
    is $worker->{generation}, 2, 'the new worker has the next generation';
    is $worker->{hooks}{$_}, 'on', "and the hook $_" for qw(pool slab thread);
};

is $_, undef, 'nginx ends as told' for $t->stop;
unlike $t->output, qr/\[(?:alert|crit|emerg)\]|panicked/, 'nothing alarming in the error log';
done_testing();

# Returns the number of pools created by kind, in all workers.
sub created {
    my %created;
    for my $process (process_with($t->fresh, kind => 'worker')) {
        $created{ $_->{kind} } += $_->{created} for @{ $process->{pools}{by_creator} };
    }
    return \%created;
}
