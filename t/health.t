# The health of the server: verdicts in words, in every format.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Prometheus qw(series);

use JSON::PP;

# Returns the health in a fresh reply.
sub health { my ($t) = @_; return $t->fresh->{health} }

# Returns the ids of the verdicts with a status, or of all.
sub verdicts { my ($health, @status) = @_;
    return map { $_->{id} } grep { my $is = $_->{status}; !@status || grep { $_ eq $is } @status }
        @{ $health->{verdicts} };
}

# Returns a reply with these fields only, which is not valid by the schema.
sub narrowed { my ($t, $fields) = @_; return JSON::PP->new->utf8->decode($t->get("/memstat?fields=$fields")->{body}) }

run_tests();

__DATA__

=== TEST 1: a healthy server is green, in every format
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $worker = ($t->workers)[0];
is_deeply health($t), { status => 'green', verdicts => [] }, 'JSON';
is_deeply narrowed($t, 'health'), { health => { status => 'green', verdicts => [] } }, 'fields=health';
is_deeply $t->memstat("/memstat?pid=$worker")->{health}, { status => 'green', verdicts => [] }, 'with pid=';
is $t->get('/memstat?format=text&fields=health')->{body}, "OK - nothing needs attention\n", 'for Nagios';
for my $query ('', "&pid=$worker", '&zone=memstat') {
    like $t->get("/memstat?format=text$query")->{body}, qr/\AHealth: green\nnginx /, "text$query";
    next if $query =~ /pid/;
    my $series = series($t->get("/memstat?format=prometheus$query")->{body});
    is $series->{"nginx_memstat_health{}"}, 0, "Prometheus$query";
    is_deeply [ grep { /^nginx_memstat_verdict\b/ } keys %$series ], [], 'no verdict';
}
my $page = $t->get('/memstat?format=html')->{body};
like $page, qr{<main id="main"><section [^>]*id="health".*?<span class="state good">green</span>}s, 'the page begins with it';
unlike $page, qr/class="notice"/, 'and warns of nothing';
