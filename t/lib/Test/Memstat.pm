# Integration tests in the block style of Test::Nginx::Socket. Each block has its own nginx.
#
#     === TEST 1: what it tests
#     --- main_config       at the top level
#     --- http_config       inside http
#     --- config            inside server
#     --- user_files        files below html/, ">>> name" before each
#     --- env               variables of nginx's environment, NAME=value lines
#     --- with              what nginx must be configured with, as nginx -V says; else it is skipped
#     --- under             a command that runs nginx
#     --- timeout           memstat_timeout, or "default"; without it longer than any client waits
#     --- module_copy       1: nginx loads a separate copy of the module, see copy_module
#     --- request           "GET /path" lines; each is sent on its own connection
#     --- more_headers      lines added to every request
#     --- error_code        one, or one for each request
#     --- response_body     exactly
#     --- response_body_like    a regular expression, of every answer
#     --- response_headers  "Name: value" lines; an empty value: no such header
#     --- error_log         regular expressions, a line each, that the error log must match
#     --- no_error_log      regular expressions that the error log must not match
#     --- must_die          nginx must refuse the configuration; error_log matches its output
#     --- perl              code that uses the server: $t is a Test::Memstat::Server
#
# In configurations, $TEST_NGINX_SERVER_PORT, $TEST_NGINX_SERVER_ROOT, $TEST_NGINX_PORT_1 and _2 (free
# ports for the test), $TEST_NGINX_TESTS (the folder of the tests) and $TEST_NGINX_BUILT_name (the module
# built from t/modules/name.c) are replaced. Lua's modules are loaded if the configuration has Lua. A line
# with alert, crit or emerg that no error_log expression matches fails the test; every worker that a
# signal killed logs one.
#
# Environment: TEST_NGINX_BINARY, TEST_NGINX_MODULE, TEST_NGINX_LOAD_MODULES (paths of more modules,
# instead of those found), TEST_NGINX_STREAM_LUA_MODULE (the path of the real ngx_stream_lua_module,
# instead of the stand-in in t/modules), TEST_NGINX_WITHOUT_LUA=1 (skip tests that need ngx_lua),
# TEST_NGINX_KEEP=1 (keep the folders of the servers).
package Test::Memstat;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use Test::Base ();
use Test::More;

use Test::Memstat::Answer;
use Test::Memstat::Configuration ();
use Test::Memstat::Proc
    qw(children cpu_time maps milliseconds open_files page_size proc_status read_file threads uptime);
use Test::Memstat::Server;

our @EXPORT = (
    @Test::More::EXPORT,
    @Test::Memstat::Answer::EXPORT,
    qw(run_tests held silent_server
        children cpu_time maps milliseconds open_files page_size proc_status read_file threads uptime),
);

my $KNOWN = join '|', qw(main_config http_config config user_files env with under module_copy timeout request more_headers
    error_code response_body response_body_like response_headers error_log no_error_log must_die
    perl);

# Returns a server that accepts connections and never answers, so that it holds requests.
sub silent_server {
    my ($port) = @_;
    return IO::Socket::INET->new(
        LocalAddr => "127.0.0.1:$port", Listen => 64, ReuseAddr => 1,
    ) // die "cannot listen: $!\n";
}

# Requests a path, each time on its own connection, until a silent server has accepted that many. Returns
# the clients' connections and the accepted ones.
sub held {
    my ($t, $upstream, $path, $count) = @_;
    my @clients = map { $t->connect->send(GET => $path) } 1 .. $count // 1;
    my @taken   = map { scalar $upstream->accept } @clients;
    return (\@clients, \@taken);
}

# Runs every block after __DATA__ as one test.
sub run_tests {
    my @blocks = @{ Test::Base->new->block_list };
    die "no tests in $0\n" unless @blocks;
    plan(tests => scalar @blocks);
    for my $block (@blocks) {
        $block->run_filters;
        subtest $block->name => sub { run_block($block); done_testing() };
    }
    return;
}

sub run_block {
    my ($block) = @_;
    for my $section (@{ $block->{_section_order}[0] }) {
        die "unknown section '$section' in '", $block->name, "'\n" unless $section =~ /^(?:$KNOWN)$/;
    }
    my %sections = map { $_ => scalar $block->$_ }
        grep { defined $block->$_ } qw(main_config http_config config user_files env under
            module_copy timeout);
    if ($ENV{TEST_NGINX_WITHOUT_LUA} && Test::Memstat::Configuration::needs_lua(join ' ', values %sections)) {
        plan(skip_all => 'this nginx has no Lua');
        return;
    }
    my ($with) = lines($block->with);
    if (defined $with && index(Test::Memstat::Configuration::nginx_version(), $with) < 0) {
        plan(skip_all => "this nginx is not configured $with");
        return;
    }
    my $t = Test::Memstat::Server->new(%sections);

    if (defined $block->must_die) {
        my ($accepted, $said) = $t->check;
        ok !$accepted, 'nginx refuses the configuration';
        like $said, qr/$_/, "nginx says: $_" for lines($block->error_log);
        return;
    }
    my $lived = eval {
        $t->start;
        run_requests($t, $block);
        run_perl($t, $block);
        1;
    };
    fail "the test died: $@" unless $lived;
    is $_, undef, 'nginx ends as told' for $t->stop;
    check_log($t, $block);
    diag $t->error_log unless Test::More->builder->is_passing;
    return;
}

sub lines { return grep { /\S/ } split /\n/, $_[0] // '' }

sub run_requests {
    my ($t, $block) = @_;
    my @codes = split ' ', $block->error_code // '';
    for (lines($block->request)) {
        my ($method, $path) = /^(\S+)\s+(\S+)$/ or die "not a request: $_\n";
        my $answer = $t->request($method, $path, headers => [ lines($block->more_headers) ]);
        my $code   = (@codes > 1 ? shift @codes : $codes[0]) // 200;
        is $answer->{status}, $code, "$_: status";
        is $answer->{body}, $block->response_body, "$_: body" if defined $block->response_body;
        my $like = $block->response_body_like;
        like $answer->{body}, qr/$like/s, "$_: body" if defined $like;
        for my $header (lines($block->response_headers)) {
            my ($name, $value) = $header =~ /^([^:]+):\s*(.*?)\s*$/ or die "not a header: $header\n";
            is $answer->{headers}{ lc $name }, length $value ? $value : undef, "$_: $name";
        }
        my $headers = $answer->{headers};
        $t->decode($answer->{body})
            if $method eq 'GET' && $answer->{status} == 200 && !$headers->{'content-encoding'}
            && ($headers->{'content-type'} // '') eq 'application/json';
    }
    return;
}

# Runs the code of a block. It is compiled with its position in the file, so that messages have its line.
sub run_perl {
    my ($t, $block) = @_;
    my $code = $block->perl // return;
    my ($before) = split /^\Q=== @{[$block->name]}\E\s*$/m, read_file($0);
    my $line = ($before =~ tr/\n//) + 1;
    my ($head) = split /^--- perl\b/m, substr read_file($0), length $before;
    $line += ($head =~ tr/\n//) + 1;
    my $sub = eval "package main; use strict; use warnings; sub { my (\$t) = \@_;\n"
        . qq{#line $line "$0"\n$code\n\}}
        or die $@;
    $sub->($t);
    return;
}

sub check_log {
    my ($t, $block) = @_;
    my @expected = map { qr/$_/ } lines($block->error_log);
    my $log      = $t->output;
    like $log, $_, 'the error log has what is expected' for @expected;
    unlike $log, qr/$_/, 'the error log has nothing else' for lines($block->no_error_log);
    my @bad = grep {
        my $line = $_;
        $line =~ /\[(?:alert|crit|emerg)\]|panicked|Sanitizer/ && !grep { $line =~ $_ } @expected
    } split /\n/, $log;
    is join("\n", @bad), '', 'nothing alarming in the error log';
    return;
}

1;
